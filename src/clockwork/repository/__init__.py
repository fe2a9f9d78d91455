"""Model repositories on disk: directories of models in the layouts of Triton and KServe.

The package reads a repository and decides which models and versions should be served. The package loads no models, and
does not depend on the controller or the worker.

============  ==================================================================================================
`models`      finds the models of a repository and their versions
`contents`    describes the files of a model, to notice changes
`policy`      Triton's version policies (pure)
`overrides`   configuration and files that a load request contains
`polling`     decides from polls which models are loaded, reloaded and unloaded (pure)
`labels`      names for versions, such as ``stable`` (pure)
`model_root`  turns a path from a request into a file that may be read
============  ==================================================================================================
"""
