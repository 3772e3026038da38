import sys

from keras_resnet.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
