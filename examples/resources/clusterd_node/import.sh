terraform import clusterd_node.w9 w9
