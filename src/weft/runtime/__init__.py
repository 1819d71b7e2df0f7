"""Ring 3: containers (conmon and runc) and images (skopeo and Weft's own OCI store)."""
