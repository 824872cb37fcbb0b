"""Making models: networks, training, integer graphs, tables, bundles. The only package that imports torch."""
