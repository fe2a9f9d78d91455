"""Exported PyTorch programs on CUDA devices. Imported only when asked for; not yet run on a real device.

=============  =========================================================================================
`driver`       what is asked of CUDA's driver, as an interface
`bindings`     that interface over NVIDIA's own bindings: the only module that calls the driver
`pages`        a weights cache: physical pages, all taken at the start
`ranges`       addresses that a model's weights have for good, with pages behind them while they are loaded
`pinned`       host memory that the device reads by itself, within a budget
`executor`     what is asked of PyTorch on a device, and PyTorch doing it
`graphs`       one captured graph for each combination of shapes, or why there is none
`model`        the two hands that a model passes through
`runtime`      `CudaRuntime`: all of it together
=============  =========================================================================================

Theory of operation. A graph that was captured has the addresses of weights in it, so weights that come back must lie
where they lay. Memory and addresses are therefore taken apart, as CUDA's virtual memory management allows: a range of
addresses is reserved once, when a model first needs it; LoadWeights maps pages of the cache into it and copies the
weights; EvictWeights unmaps them. Nothing is allocated and nothing is captured anew. Copies of a model that are loaded
at the same time have a range each; ranges that are free are used again, with their graphs.
"""
