"""optimum's command line imports every module of `optimum.commands.register`, and this is installed as one of them.

The folder has no `__init__.py`: optimum asks for a namespace that several packages share.
"""

from optimum.commands.export.base import ExportCommand

from pumice.cli.optimum import ExportPumice

REGISTER_COMMANDS = [(ExportPumice, ExportCommand)]
