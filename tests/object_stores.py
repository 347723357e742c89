"""The clients of S3 and Google Cloud Storage, pointed at servers of a test's own (`file_server`)."""

from asrbatch.storage import remote


def forget_s3():
    """Endpoints are read once, by us and by fsspec."""
    import s3fs

    remote._system.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


def amazon(monkeypatch, endpoint):
    """s3fs, asking there, with an empty bucket `speech`."""
    for name, value in (("ENDPOINT_URL", endpoint), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    forget_s3()
    import s3fs

    files = s3fs.S3FileSystem()
    files.mkdir("speech")
    return files


def google(monkeypatch, endpoint):
    """gcsfs, asking there."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    remote._system.cache_clear()
    remote._fsspec()  # says what gcsfs reads while it is imported
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    return gcsfs.GCSFileSystem(token="anon")
