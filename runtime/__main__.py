"""`python -m pumice`: the command line."""

try:
    from pumice.cli import main

    code = main()
except KeyboardInterrupt:  # before `main` could answer it
    code = 130

raise SystemExit(code)
