"""The real clients on real bundles: `make clients` makes their environments and runs these."""
