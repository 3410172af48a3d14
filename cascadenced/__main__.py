"""`python -m cascadenced` is the command line."""

from cascadenced.cli import entry

if __name__ == "__main__":
    entry()
