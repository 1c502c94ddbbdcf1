variable "namespace" {
  description = "Namespace of the team. Default: the provider's."
  type        = string
  default     = null
}

variable "name" {
  description = "Name of the app."
  type        = string
  nullable    = false
}

variable "image" {
  description = "What to run, with a tag that does not move."
  type        = string
  nullable    = false
  validation {
    condition     = provider::clusterd::parse_image(var.image).tag != "latest"
    error_message = "Pin the image to a version: latest is another program every week, and cannot be rolled back to."
  }
}

variable "command" {
  description = "Replaces the image's entrypoint."
  type        = list(string)
  default     = null
}

variable "replicas" {
  description = "How many pods work side by side."
  type        = number
  default     = 1
  nullable    = false
}

variable "cpu" {
  description = "CPU reserved for each pod."
  type        = string
  default     = "100m"
  nullable    = false
}

variable "memory" {
  description = "Memory reserved for each pod, and its limit."
  type        = string
  default     = "128Mi"
  nullable    = false
}

variable "env" {
  description = "Environment variables."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "secrets" {
  description = "Environment variables from secrets: NAME = \"secret/key\"."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "finish_within" {
  description = "How long a pod that is asked to stop may finish what it works on."
  type        = string
  default     = "30s"
  nullable    = false
}

variable "overlap" {
  description = "Whether an old and a new pod may work at the same time during an update."
  type        = bool
  default     = true
  nullable    = false
}
