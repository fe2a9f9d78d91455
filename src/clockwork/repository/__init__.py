"""Model repositories on disk: directories of models in the layouts of Triton and KServe.

The package reads a repository and decides which models and versions an operator wants. The package loads nothing, and
knows no controller and no worker.

============  ==================================================================================================
`models`      finds the models of a repository and their versions
`contents`    describes the files of a model, so that changes are noticed
`policy`      Triton's version policies (pure)
`overrides`   configuration and files that a load request brings with it
`polling`     decides from the polls which models to load, reload and unload (pure)
`labels`      names for versions, such as ``stable`` (pure)
`model_root`  turns a path from a request into a file that may be read
============  ==================================================================================================
"""
