"""`python -m agentbus` is the `agentbus` command."""

from .cli import main

if __name__ == "__main__":
    main()
