"""The original's utilities, which are gone: importing one says what to write instead."""
