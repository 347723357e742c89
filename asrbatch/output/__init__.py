"""The durable files of a run, and nothing else: rows, run record, completion mark, lease. The only writers of them."""
