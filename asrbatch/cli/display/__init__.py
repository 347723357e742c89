"""Progress bars, tables and lines for people. Gets plain values, decides nothing.

Begin with `progress.py` (while it runs) or `tables.py` (what was found). May import `evaluation`, `storage`, `cli` (its
module for streams) and the root modules."""
