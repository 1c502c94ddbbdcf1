variable "namespace" {
  description = "Namespace of the team. Default: the provider's."
  type        = string
  default     = null
}

variable "name" {
  description = "Name of the app, and of its service."
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
  description = "How many pods to keep running; at least two, so that one may fail. Without effect when scale is set."
  type        = number
  default     = 2
  nullable    = false
  validation {
    condition     = var.replicas >= 2
    error_message = "One replica is an outage at every update of its node: want at least two."
  }
}

variable "scale" {
  description = "Keep as many pods as the load asks for, instead of replicas."
  type = object({
    min = optional(number, 2)
    max = number
    cpu = optional(number, 70)
  })
  default = null
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

variable "writable" {
  description = "Paths the app writes to, and how much at most: { \"/var/cache/app\" = \"32Mi\" }. Everything but /tmp is read-only otherwise."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "port" {
  description = "Port the container listens on."
  type        = number
  default     = 8080
  nullable    = false
}

variable "health_path" {
  description = "Path that answers when the app serves."
  type        = string
  default     = "/healthz"
  nullable    = false
  validation {
    condition     = startswith(var.health_path, "/")
    error_message = "Want a path, such as /healthz."
  }
}

variable "node_port" {
  description = "Port of every node to answer on too; none by default."
  type        = number
  default     = null
}
