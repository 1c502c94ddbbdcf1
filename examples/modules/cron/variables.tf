variable "namespace" {
  description = "Namespace of the team. Default: the provider's."
  type        = string
  default     = null
}

variable "name" {
  description = "Name of the job."
  type        = string
  nullable    = false
}

variable "image" {
  description = "What to run, with a tag that does not move."
  type        = string
  nullable    = false
  validation {
    condition     = provider::clusterd::parse_image(var.image).tag != "latest"
    error_message = "Pin the image to a version: latest is another program every week."
  }
}

variable "command" {
  description = "Replaces the image's entrypoint."
  type        = list(string)
  default     = null
}

variable "schedule" {
  description = "When, as cron says it: minute, hour, day of month, month, day of week."
  type        = string
  nullable    = false
  validation {
    condition     = length(split(" ", var.schedule)) == 5
    error_message = "Want five fields, such as 15 2 * * *."
  }
  validation {
    condition     = !startswith(var.schedule, "* ")
    error_message = "Every minute is a worker, not a job: use the module worker."
  }
}

variable "time_zone" {
  description = "Whose clock the schedule means."
  type        = string
  default     = "UTC"
  nullable    = false
}

variable "retries" {
  description = "How often a failed run is tried again."
  type        = number
  default     = 2
  nullable    = false
}

variable "deadline" {
  description = "How long a run may take."
  type        = string
  default     = "30m"
  nullable    = false
}

variable "cpu" {
  description = "CPU reserved for a run."
  type        = string
  default     = "100m"
  nullable    = false
}

variable "memory" {
  description = "Memory reserved for a run, and its limit."
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
