package fc

import "fmt"

// APIError is a request that the VMM understood and refused.
type APIError struct {
	Method string
	Path   string
	// Status is the HTTP status, 400 for nearly everything.
	Status int
	// FaultMessage is the VMM's reason, in its own words.
	FaultMessage string
}

// Error implements error.
func (e *APIError) Error() string {
	return fmt.Sprintf("%s %s: status %d: %s", e.Method, e.Path, e.Status, e.FaultMessage)
}

// fault is the body of every refusal.
type fault struct {
	Message string `json:"fault_message"`
	// Error is what Firecracker's HTTP layer says before the API sees a request.
	Error string `json:"error"`
}
