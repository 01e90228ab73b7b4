"""The `kbit` command. Imported beside `transformers`, it makes exported models loadable."""

from kbit.on_import import register_format

register_format()
