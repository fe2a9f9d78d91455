"""Rules for the operators of ONNX's domain ai.onnx.ml, which are classical models such as trees and regressions.

The input of most of these operators is a table with one row for each request. Many operators also accept a tensor with
one dimension, which they treat as a single row of features. The rules accept only tables.
"""

from collections.abc import Sequence
from typing import Final

from clockwork.runtimes.onnx.rows.node import Node, rule
from clockwork.runtimes.rows.moves import along, concatenated, unsqueezed
from clockwork.runtimes.rows.size import number
from clockwork.runtimes.rows.value import Value

DOMAIN: Final = "ai.onnx.ml."
TABLE: Final = 2
"""Number of dimensions of a table."""


@rule(*(DOMAIN + name for name in ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier")))
def classifier(node: Node) -> Sequence[Value]:
    """Rule of classifiers, which return a label and scores for each row."""
    x = node.rowwise(node.value(0), TABLE)
    label = Value(x.shape[:1], x.batch_axis, x.inner)
    return [label, along(x, (1,), {1: node.unknown_size(1)})]


@rule(*(DOMAIN + name for name in ("TreeEnsembleRegressor", "TreeEnsemble", "LinearRegressor", "SVMRegressor")))
def regressor(node: Node) -> Sequence[Value]:
    """Rule of regressors, which return numbers for each row."""
    x = node.rowwise(node.value(0), TABLE)
    targets = node.attributes.get("targets", node.attributes.get("n_targets"))
    width = number(int(targets)) if targets is not None else node.unknown_size(1)
    return [along(x, (1,), {1: width})]


@rule(*(DOMAIN + name for name in ("Scaler", "Normalizer", "Imputer")))
def by_features(node: Node) -> Sequence[Value]:
    """Rule of operators that compute each row of a table separately."""
    x = node.rowwise(node.value(0), TABLE)
    return [along(x, (1,))]


@rule(DOMAIN + "OneHotEncoder")
def one_hot_encoder(node: Node) -> Sequence[Value]:
    """Rule of OneHotEncoder, which adds a last axis."""
    x = node.value(0)
    categories = node.attributes.get("cats_int64s") or node.attributes.get("cats_strings") or ()
    result = unsqueezed(x, (x.rank,))
    return [along(result, (x.rank,), {x.rank: number(len(categories))})]


@rule(DOMAIN + "FeatureVectorizer")
def feature_vectorizer(node: Node) -> Sequence[Value]:
    """Rule of FeatureVectorizer, which concatenates the columns of tables."""
    return [concatenated([node.rowwise(tensor, TABLE) for tensor in node.values()], 1, node.out)]


@rule("TfIdfVectorizer")
def tf_idf(node: Node) -> Sequence[Value]:
    """Rule of TfIdfVectorizer, which counts the words of each row."""
    x = node.rowwise(node.value(0), TABLE)
    return [along(x, (1,), {1: node.unknown_size(1)})]
