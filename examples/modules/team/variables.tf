variable "name" {
  description = "Name of the team, and of its namespace."
  type        = string
  nullable    = false
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,61}[a-z0-9]$", var.name)) && !contains(["default"], var.name)
    error_message = "Want lower-case letters, digits and dashes, starting with a letter; default is everybody's."
  }
}

variable "description" {
  description = "Who the team is, and whom to call."
  type        = string
  nullable    = false
  validation {
    condition     = length(var.description) >= 5
    error_message = "Say who the team is: whoever finds its pods wants to know."
  }
}

variable "quota" {
  description = "The most that the team's apps, jobs and volumes may ask for together."
  type = object({
    cpu      = string
    memory   = string
    replicas = optional(number)
    volumes  = optional(number)
    storage  = optional(string)
  })
  nullable = false
  validation {
    condition     = provider::clusterd::millicpu(var.quota.cpu) >= 100 && provider::clusterd::bytes(var.quota.memory) >= provider::clusterd::bytes("64Mi")
    error_message = "A team needs at least 100m of cpu and 64Mi of memory to run anything."
  }
}

variable "defaults" {
  description = "What containers get that do not say."
  type = object({
    cpu    = optional(string, "100m")
    memory = optional(string, "128Mi")
  })
  default  = {}
  nullable = false
}

variable "powers" {
  description = "What the team's pods may do beyond the usual. Nothing, by default."
  type = object({
    host_paths   = optional(list(string))
    capabilities = optional(list(string))
    node_ports   = optional(bool)
  })
  default = null
  validation {
    condition     = alltrue([for p in try(var.powers.host_paths, null) == null ? [] : var.powers.host_paths : p != "/" && !startswith(p, "/etc") && !startswith(p, "/var/lib")])
    error_message = "The platform's own directories are not a team's: /, /etc and /var/lib are refused."
  }
}
