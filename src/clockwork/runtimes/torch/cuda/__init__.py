"""Executes exported PyTorch programs on CUDA devices. The package is imported only if such a device is used.

=============  =======================================================================================
`driver`       interface to the CUDA driver
`bindings`     implements the interface with NVIDIA's bindings; no other module calls the driver
`clock`        clock frequency of a device
`pages`        weights cache: physical pages, all allocated at the start
`ranges`       the fixed addresses of a model's weights, mapped to pages while the weights are loaded
`pinned`       pinned host memory, within a budget
`staging`      memory for inputs and outputs, on the device and in the host
`executor`     interface to PyTorch on a device, and its implementation
`device`       all of these for one device, with its streams, and the steps of a batch
`graphs`       the captured graph for each batch size, or the reason why there is none
`examples`     example inputs of the batches that will be executed
`resident`     one program on one device
`model`        models in host memory and on a device
`runtime`      `CudaRuntime`, which uses all of these
=============  =======================================================================================

This code has not run on a real device yet.

Theory of operation. With CUDA's virtual memory management, addresses can be reserved without memory. For each model, a
range of addresses is reserved once. LoadWeights maps pages of the cache to these addresses and copies the weights.
EvictWeights unmaps the pages. So a graph that was captured when the model was read stays valid, whichever pages contain
the weights. While models are served, no memory is allocated and no graph is captured.
"""
