# The server in a container; docs/deployment.md says how to build and run it. `.ci/dockerfile.py` carries out these lines.
FROM python:3.11.14-slim-bookworm

# cpu: PyTorch for processors. gpu: PyTorch with CUDA, for NVIDIA GPUs; the image is several GB larger.
ARG VARIANT=cpu

WORKDIR /opt/sparse-unet3d

# One of MONAI Label's requirements (sam2) is built from source. It needs PyTorch for that, and no CUDA.
COPY requirements.txt ./
COPY requirements-formats.txt ./
RUN case "$VARIANT" in \
      cpu) index=https://download.pytorch.org/whl/cpu ;; \
      gpu) index= ;; \
      *) echo "VARIANT=$VARIANT: expected cpu or gpu" >&2; exit 1 ;; \
    esac \
 && pip install --no-cache-dir setuptools==84.2.1 wheel==0.48.0 \
 && PIP_INDEX_URL="$index" pip install --no-cache-dir "$(grep '^torch==' requirements.txt)" \
 && SAM2_BUILD_CUDA=0 pip install --no-cache-dir --no-build-isolation -r requirements.txt -r requirements-formats.txt

# Whoever the server runs as (docker run --user) can write its log, temporary files in a home, and new volumes.
COPY docker docker
COPY apps apps
RUN chmod -R a+rX apps docker \
 && mkdir -p apps/sparse_unet3d/bin apps/sparse_unet3d/model \
 && install -d -m 1777 apps/sparse_unet3d/logs home /studies /studies/models
VOLUME /studies

# The user may be a number without a name and a home.
ENV HOME=/opt/sparse-unet3d/home USER=segment NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["python", "docker/health.py", "8000"]
ENTRYPOINT ["python", "-m", "monailabel.main", "start_server", "--app", "apps/sparse_unet3d", \
            "--studies", "/studies", "--host", "0.0.0.0", "--port", "8000"]
