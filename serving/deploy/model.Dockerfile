# A model as an image of its own, so that a new model is a new tag and the service's image stays:
#
#   docker build -f serving/deploy/model.Dockerfile --build-arg MODEL=pathmnist.onnx -t xtrain-model:1 FOLDER
#
# Kubernetes mounts it as a volume (components/model-image), KServe by oci://, which expects the folder /models.
FROM scratch
ARG MODEL=model.onnx
# For any user: the service is none that the file's owner knows.
COPY --chmod=444 ${MODEL} /models/model.onnx
