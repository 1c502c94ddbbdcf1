package api

// or returns p, or a pointer to v when p is nil.
func or[T any](p *T, v T) *T {
	if p == nil {
		return &v
	}
	return p
}

// Deref returns *p, or the zero value when p is nil.
func Deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
