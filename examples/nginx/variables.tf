variable "image" {
  description = "What to run. The demo loads nginx:1.0 and nginx:2.0, which differ in their page."
  type        = string
  default     = "nginx:1.0"
}

variable "replicas" {
  description = "How many pods to keep running."
  type        = number
  default     = 3
}

variable "env" {
  description = "Environment variables of the container. A change of them is a rolling update."
  type        = map(string)
  default     = {}
}

variable "node_port" {
  description = "Port on which every node answers for the service."
  type        = number
  default     = 30080
}
