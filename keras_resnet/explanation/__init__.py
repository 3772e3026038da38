"""Why a network decided: heat maps by many methods, and scores that say which of them can be trusted."""
