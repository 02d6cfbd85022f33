"""The interception and the rules of all operations; importing this package registers them."""

from xai_align.pinet.gates import (
    attention_rules,
    constant_operations,
    convolution_rule,
    gate_rules,
    linear_operations,
    normalisation_rules,
    pooling_rules,
    product_rules,
    recurrent_rules,
    selection_rules,
)

#: The modules that register rules.
RULES = (
    linear_operations,
    constant_operations,
    gate_rules,
    product_rules,
    convolution_rule,
    normalisation_rules,
    pooling_rules,
    selection_rules,
    attention_rules,
    recurrent_rules,
)
