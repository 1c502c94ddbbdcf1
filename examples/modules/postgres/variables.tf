variable "namespace" {
  description = "Namespace of the team. Default: the provider's."
  type        = string
  default     = null
}

variable "name" {
  description = "Name of the app, its secret and its service; the volume is called <name>-data-0."
  type        = string
  nullable    = false
}

variable "image" {
  description = "A PostgreSQL that reads POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD when it finds no data, as the official image and that of examples/images do, with bash and setpriv."
  type        = string
  default     = "postgres:15"
  nullable    = false
  validation {
    condition     = provider::clusterd::parse_image(var.image).tag != "latest"
    error_message = "Pin the image to a version: another major version does not read the data."
  }
}

variable "database" {
  description = "Database that is made with the data."
  type        = string
  default     = "app"
  nullable    = false
}

variable "user" {
  description = "Owner of the database."
  type        = string
  default     = "app"
  nullable    = false
}

variable "storage" {
  description = "Size of the volume. It may grow, and never shrink."
  type        = string
  default     = "1Gi"
  nullable    = false
  validation {
    condition     = provider::clusterd::bytes(var.storage) >= provider::clusterd::bytes("256Mi")
    error_message = "An empty database takes about 64Mi, and its log as much again: want at least 256Mi."
  }
}

variable "cpu" {
  description = "CPU reserved for the database."
  type        = string
  default     = "250m"
  nullable    = false
}

variable "memory" {
  description = "Memory reserved for the database, and its limit."
  type        = string
  default     = "256Mi"
  nullable    = false
}

variable "on_isolation" {
  description = "What the database does when its node loses the control plane: stop, or keep."
  type        = string
  default     = "stop"
  nullable    = false
  validation {
    condition     = contains(["stop", "keep"], var.on_isolation)
    error_message = "Want stop or keep."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete the database."
  type        = bool
  default     = true
  nullable    = false
}
