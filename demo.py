import sys

from keras_resnet.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
