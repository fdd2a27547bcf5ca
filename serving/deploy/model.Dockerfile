# A model as an image of its own, so that a new model is a new tag and the service's image stays:
#
#   docker build -f serving/deploy/model.Dockerfile -t xtrain-model:1 FOLDER
#
# FOLDER holds model.onnx; its .sha256 and .sig come along where they lie beside it. Kubernetes mounts the image as a
# volume (components/model-image).
FROM scratch
# For any user: the service is none that the file's owner knows.
COPY --chmod=444 model.onnx model.onnx.sha25[6] model.onnx.si[g] /models/
