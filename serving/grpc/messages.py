"""The messages of the Open Inference Protocol's gRPC service, made from a table of their fields.

The names and numbers are the protocol's (github.com/kserve/open-inference-protocol, specification/protocol/
open_inference_grpc.proto). They live in a descriptor pool of their own: a client's generated messages of the same
names in the same process would otherwise be refused.
"""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "bool": Field.TYPE_BOOL,
    "bytes": Field.TYPE_BYTES,
    "double": Field.TYPE_DOUBLE,
    "float": Field.TYPE_FLOAT,
    "int32": Field.TYPE_INT32,
    "int64": Field.TYPE_INT64,
    "string": Field.TYPE_STRING,
    "uint32": Field.TYPE_UINT32,
    "uint64": Field.TYPE_UINT64,
}
# Field names, their numbers and types; `*` repeated, `map:` a map from strings, `?` one of a choice.
MESSAGES: dict[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live=1:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready=1:bool",
    "ModelReadyRequest": "name=1:string version=2:string",
    "ModelReadyResponse": "ready=1:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name=1:string version=2:string extensions=3:*string",
    "ModelMetadataRequest": "name=1:string version=2:string",
    "TensorMetadata": "name=1:string datatype=2:string shape=3:*int64",
    "ModelMetadataResponse": "name=1:string versions=2:*string platform=3:string inputs=4:*TensorMetadata "
    "outputs=5:*TensorMetadata",
    "InferParameter": "bool_param=1:?bool int64_param=2:?int64 string_param=3:?string double_param=4:?double "
    "uint64_param=5:?uint64",
    "InferTensorContents": "bool_contents=1:*bool int_contents=2:*int32 int64_contents=3:*int64 "
    "uint_contents=4:*uint32 uint64_contents=5:*uint64 fp32_contents=6:*float fp64_contents=7:*double "
    "bytes_contents=8:*bytes",
    "InferInputTensor": "name=1:string datatype=2:string shape=3:*int64 parameters=4:map:InferParameter "
    "contents=5:InferTensorContents",
    "InferRequestedOutputTensor": "name=1:string parameters=2:map:InferParameter",
    "ModelInferRequest": "model_name=1:string model_version=2:string id=3:string parameters=4:map:InferParameter "
    "inputs=5:*InferInputTensor outputs=6:*InferRequestedOutputTensor raw_input_contents=7:*bytes",
    "InferOutputTensor": "name=1:string datatype=2:string shape=3:*int64 parameters=4:map:InferParameter "
    "contents=5:InferTensorContents",
    "ModelInferResponse": "model_name=1:string model_version=2:string id=3:string parameters=4:map:InferParameter "
    "outputs=5:*InferOutputTensor raw_output_contents=6:*bytes",
    "RepositoryIndexRequest": "repository_name=1:string ready=2:bool",
    "ModelIndex": "name=1:string version=2:string state=3:string reason=4:string",
    "RepositoryIndexResponse": "models=1:*ModelIndex",
    "ModelRepositoryParameter": "bool_param=1:?bool int64_param=2:?int64 string_param=3:?string bytes_param=4:?bytes",
    "RepositoryModelLoadRequest": "repository_name=1:string model_name=2:string "
    "parameters=3:map:ModelRepositoryParameter",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "repository_name=1:string model_name=2:string "
    "parameters=3:map:ModelRepositoryParameter",
    "RepositoryModelUnloadResponse": "",
}


@cache
def messages() -> dict[str, Any]:
    """Return the classes of all messages by name."""
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            _add_field(message, text)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


def _add_field(message: descriptor_pb2.DescriptorProto, text: str) -> None:
    """Add a field that is written as in `MESSAGES`."""
    name, _, rest = text.partition("=")
    number, _, kind = rest.partition(":")
    field = message.field.add(name=name, number=int(number), label=Field.LABEL_OPTIONAL)
    if kind.startswith("map:"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        for part in ("key=1:string", f"value=2:{kind.removeprefix('map:')}"):
            _add_field(entry, part)
        field.label, field.type = Field.LABEL_REPEATED, Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
        return
    if kind.startswith("?"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind.startswith("*"):
        field.label = Field.LABEL_REPEATED
    kind = kind.lstrip("*?")
    if kind in SCALARS:
        field.type = SCALARS[kind]
    else:
        field.type, field.type_name = Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
