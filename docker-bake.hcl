# The images, by `make images` or `docker buildx bake`. `docker compose build` would write its project's labels into them,
# by which Compose then takes every container of theirs for one of that project.
variable "BASE_IMAGE" { default = "python:3.11-slim" }
variable "TORCH" { default = "cuda" }      # "cpu": PyTorch's CPU builds, images of a fraction of the size
variable "TORCH_CPU_INDEX" { default = "https://download.pytorch.org/whl/cpu" }   # or a mirror of it
variable "ZSQ_REGISTRY" { default = "" }   # "registry.example.com/team/"; with --push
variable "ZSQ_TAG" { default = "latest" }
variable "ZSQ_VERSION" { default = "unknown" }
variable "ZSQ_REVISION" { default = "unknown" }
variable "ZSQ_PLATFORMS" { default = "" }  # "linux/amd64,linux/arm64": takes a builder of several platforms, and --push
# Proxies of the build alone: BuildKit keeps them out of the images and out of what decides whether a layer is built again.
variable "HTTP_PROXY" { default = "" }
variable "HTTPS_PROXY" { default = "" }
variable "NO_PROXY" { default = "" }

group "default" { targets = ["image"] }

target "image" {
  name       = "zsq-${stage}"
  matrix     = { stage = ["synth", "qat", "eval", "check", "set"] }
  target     = stage
  context    = "."
  dockerfile = "docker/Dockerfile"
  tags       = ["${ZSQ_REGISTRY}zsq-${stage}:${ZSQ_TAG}"]
  platforms  = ZSQ_PLATFORMS != "" ? split(",", ZSQ_PLATFORMS) : null
  args = {
    BASE_IMAGE      = BASE_IMAGE
    TORCH           = TORCH
    TORCH_CPU_INDEX = TORCH_CPU_INDEX
    VERSION         = ZSQ_VERSION
    REVISION        = ZSQ_REVISION
    HTTP_PROXY      = HTTP_PROXY != "" ? HTTP_PROXY : null
    HTTPS_PROXY     = HTTPS_PROXY != "" ? HTTPS_PROXY : null
    NO_PROXY        = NO_PROXY != "" ? NO_PROXY : null
  }
}
