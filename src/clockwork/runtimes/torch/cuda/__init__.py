"""Exported PyTorch programs on CUDA devices. Imported only when asked for; not yet run on a real device.

=============  =========================================================================================
`driver`       what is asked of CUDA's driver, as an interface
`bindings`     that interface over NVIDIA's own bindings: the only module that calls the driver
`clock`        the frequency at which a device computes
`pages`        a weights cache: physical pages, all taken at the start
`ranges`       addresses that a model's weights have for good, with pages behind them while they are loaded
`pinned`       host memory that the device reads by itself, within a budget
`staging`      memory for inputs and outputs, on the device and in the host
`executor`     what is asked of PyTorch on a device, and PyTorch doing it
`device`       all of these for one device, its streams, and the way of a batch through them
`graphs`       one captured graph for each batch size, or why there is none
`foreseen`     the batches that will be asked for
`resident`     one program on one device
`model`        the two hands that a model passes through
`runtime`      `CudaRuntime`: all of it together
=============  =========================================================================================

Theory of operation. Memory and addresses are taken apart, as CUDA's virtual memory management allows: a range of
addresses is reserved once for each model; LoadWeights maps pages of the cache into it and copies the weights, and
EvictWeights unmaps them. So a graph that was captured when the model was read stays valid, wherever the weights lie.
Nothing is allocated and nothing is captured while models are served.
"""
