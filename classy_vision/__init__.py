"""One trunk of named blocks, and heads that read any of them."""

__version__ = "1.0.0"
