"""Progress bars, tables and lines for people. Gets plain values, decides nothing."""
