"""`python -m tisdiss_cli` and the `tisdiss` command."""

from tisdiss_cli.commands import app

if __name__ == "__main__":
    app(prog_name="tisdiss")
