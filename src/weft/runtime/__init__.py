"""Ring 3: containers (conmon and runc) and images (skopeo and an OCI store of our own)."""
