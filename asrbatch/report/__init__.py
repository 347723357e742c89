"""`asrbatch report`: one HTML page of a score. What is on it (`rows`), its plots (`plots`), the page itself (`page`)."""
