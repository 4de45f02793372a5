"""Demos, each as a Jupyter notebook and as a paired .py file; `matvit notebook` hands them out."""
