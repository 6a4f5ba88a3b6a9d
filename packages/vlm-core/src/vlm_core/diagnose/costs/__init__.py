"""What a spec costs, worked out without weights, network or GPU: FLOPs, memory, hours, downloads (docs/costs.md)."""
