"""Rules for the classical models of the domain ai.onnx.ml, most of which take a table with a row for each request.

Many of these operators take one dimension too, and read it as a single row of features then. So they have no rule for
anything but two dimensions.
"""

from collections.abc import Sequence
from typing import Final

from clockwork.runtimes.onnx.rows.node import Node, rule
from clockwork.runtimes.rows.moves import along, concatenated, unsqueezed
from clockwork.runtimes.rows.size import number
from clockwork.runtimes.rows.value import Value

DOMAIN: Final = "ai.onnx.ml."
TABLE: Final = 2
"""Dimensions of a table."""


@rule(*(DOMAIN + item for item in ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier")))
def classifier(node: Node) -> Sequence[Value]:
    """A label, and scores, for each row."""
    x = node.rowwise(node.value(0), TABLE)
    label = Value(x.shape[:1], x.batch_axis, x.inner)
    return [label, along(x, (1,), {1: node.unknown_size(1)})]


@rule(*(DOMAIN + item for item in ("TreeEnsembleRegressor", "TreeEnsemble", "LinearRegressor", "SVMRegressor")))
def regressor(node: Node) -> Sequence[Value]:
    """Numbers for each row."""
    x = node.rowwise(node.value(0), TABLE)
    targets = node.attributes.get("targets", node.attributes.get("n_targets"))
    width = number(int(targets)) if targets is not None else node.unknown_size(1)
    return [along(x, (1,), {1: width})]


@rule(*(DOMAIN + item for item in ("Scaler", "Normalizer", "Imputer")))
def by_features(node: Node) -> Sequence[Value]:
    """Each row by itself."""
    x = node.rowwise(node.value(0), TABLE)
    return [along(x, (1,))]


@rule(DOMAIN + "OneHotEncoder")
def one_hot_encoder(node: Node) -> Sequence[Value]:
    """A new last axis."""
    x = node.value(0)
    categories = node.attributes.get("cats_int64s") or node.attributes.get("cats_strings") or ()
    made = unsqueezed(x, (x.rank,))
    return [along(made, (x.rank,), {x.rank: number(len(categories))})]


@rule(DOMAIN + "FeatureVectorizer")
def feature_vectorizer(node: Node) -> Sequence[Value]:
    """Tables side by side."""
    return [concatenated([node.rowwise(tensor, TABLE) for tensor in node.values()], 1, node.out)]


@rule("TfIdfVectorizer")
def tf_idf(node: Node) -> Sequence[Value]:
    """The counts of words of each row."""
    x = node.rowwise(node.value(0), TABLE)
    return [along(x, (1,), {1: node.unknown_size(1)})]
