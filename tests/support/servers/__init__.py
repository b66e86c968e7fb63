"""Real storage servers on 127.0.0.1, each a context manager: ``with SeaweedFS(folder) as server: ...``."""
