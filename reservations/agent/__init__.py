"""The node agent: owns this node's GPUs and session processes."""
