"""From a file, or bytes, to windows of samples: decode, resample, find silence, split.

Begin with `load.py` (what a row's audio is), `decoder.py` (the process that decodes) and `windows.py` (where long audio
is split). May import the root modules and `storage`; knows nothing of manifests and of models."""
