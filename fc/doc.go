// Package fc speaks Firecracker's API: the words of its requests and answers, a
// client for one connected socket, and the way into a guest over its vsock.
//
// The words follow the swagger file of Firecracker 1.14 and later. Each request
// body is a type of its own that knows where it is sent, so that the client here,
// the server in fc/server and every test read the same declaration:
//
//	client := fc.NewClient(conn, nil)
//	err := client.Do(ctx, fc.BootSource{KernelPath: "/kernel"})
//
// Nothing here needs a privilege, starts a process or touches a path but the
// socket that it is told to dial.
package fc

// Request is a body of the API. Its type decides where it is sent.
type Request interface {
	// Target is the method and the path that take the request.
	Target() (method, path string)
}

const (
	put   = "PUT"
	patch = "PATCH"
)
