"""`--check` and `--doctor`: shapes, parameters, costs, versions and kernels."""
