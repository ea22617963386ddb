"""We beside the peers: these tests run where requirements/peers.txt is installed, by make test-peers."""

from importlib.util import find_spec

HERE = all(find_spec(name) for name in ("segmentation_models_pytorch", "timm", "torchvision", "transformers"))

if HERE:
    import benchmarks.peers  # noqa: F401  (makes torchvision importable, so it comes first)
