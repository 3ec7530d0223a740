/* The hot half of a stream transport, TCP or Unix: what is read and written while nothing is the matter.
 *
 * It is derived from asyncio's _SelectorSocketTransport, whose code does all the rest: each method here calls the one
 * that it stands in for as soon as anything is unusual.  The members have the names of what asyncio keeps in the
 * transport, and hide that.
 *
 * recv and send keep the GIL.  Neither waits, and to give it away and to ask for it again would cost more than they do.
 */
#include "core.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    READ_SIZE = 256 * 1024,
    SEND_SIZE = 256 * 1024,  /* at a time: the kernel copies it with the GIL held */
    MOST_LATE = 4 * 1024,    /* beyond that it is sent at the end of the step: while it waits it falls out of the cache */
    MOST_QUEUED = 64 * 1024, /* beyond that it is sent in the middle of a step */
    MOST_PARTS = 64,         /* of one call */
};

typedef struct {
    PyObject *loop;
    PyObject *protocol;
    PyObject *queued; /* a list of bytes that are to be sent; or NULL */
    size_t sent;      /* how much of the first of them has been */
    size_t size;      /* of all that was queued since it was empty */
    PyObject *buffer;       /* what could not be sent yet; a deque */
    PyObject *high_water;   /* an int: with more than that waiting the protocol is paused */
    PyObject *empty_waiter; /* while sendfile() uses the socket */
    int fd;
    int connection_lost; /* counted, as asyncio does */
    char is_buffered;    /* whether the protocol is a BufferedProtocol */
    char eof;            /* whether write_eof() was called */
    char closing;        /* whether it is closed, or about to be */
} Stream;

static PyTypeObject *stream_type;
static Py_ssize_t offset;
static char received[READ_SIZE];
static PyObject *read_ready_name, *on_eof_name, *data_received_name, *write_name, *left_over_name, *fatal_error_name;
static PyObject *read_failed, *receive_failed, *write_failed;
static PyObject *get_buffer_name, *buffer_updated_name, *get_buffer_failed, *buffer_updated_failed;
static PyObject *any_size; /* what get_buffer() is given: -1 */

static Stream *stream_of(PyObject *transport)
{
    return (Stream *)((char *)transport + offset);
}

/* transport._fatal_error(what was raised, message).  What ends the program is not the transport's. */
static PyObject *fatal(PyObject *transport, PyObject *message)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return NULL;
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *result = PyObject_CallMethodObjArgs(transport, fatal_error_name, exception, message, NULL);
    Py_DECREF(exception);
    return result;
}

static bool is_try_again(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* What a read has returned is an error, or the end. */
static PyObject *nothing_read(PyObject *transport, ssize_t count, int error)
{
    if (count == 0)
        return PyObject_CallMethodNoArgs(transport, on_eof_name);
    if (is_try_again(error))
        Py_RETURN_NONE;
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return fatal(transport, read_failed);
}

/* Read for a BufferedProtocol, which says where to.  asyncio's TLS is one. */
static PyObject *read_into(PyObject *transport, PyObject *protocol, int fd)
{
    PyObject *room = PyObject_CallMethodOneArg(protocol, get_buffer_name, any_size);
    Py_buffer buffer;
    if (room == NULL || PyObject_GetBuffer(room, &buffer, PyBUF_WRITABLE) < 0) {
        Py_XDECREF(room);
        return fatal(transport, get_buffer_failed);
    }
    if (buffer.len == 0)
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
    ssize_t count = buffer.len == 0 ? -1 : recv(fd, buffer.buf, (size_t)buffer.len, MSG_DONTWAIT);
    int error = errno;
    PyBuffer_Release(&buffer);
    Py_DECREF(room);
    if (PyErr_Occurred() != NULL)
        return fatal(transport, get_buffer_failed);
    if (count <= 0)
        return nothing_read(transport, count, error);
    PyObject *size = PyLong_FromSsize_t(count), *result = NULL;
    if (size != NULL)
        result = PyObject_CallMethodOneArg(protocol, buffer_updated_name, size);
    Py_XDECREF(size);
    return result == NULL ? fatal(transport, buffer_updated_failed) : result;
}

/* The socket is readable. */
static PyObject *read_ready(PyObject *transport, PyObject *Py_UNUSED(none))
{
    Stream *stream = stream_of(transport);
    if (stream->connection_lost || stream->protocol == NULL)
        return call_super(stream_type, transport, read_ready_name, NULL, 0, NULL);
    if (stream->is_buffered) {
        PyObject *protocol = Py_NewRef(stream->protocol); /* it may be replaced meanwhile */
        PyObject *result = read_into(transport, protocol, stream->fd);
        Py_DECREF(protocol);
        return result;
    }
    ssize_t count = recv(stream->fd, received, sizeof received, MSG_DONTWAIT);
    if (count <= 0)
        return nothing_read(transport, count, errno);
    PyObject *data = PyBytes_FromStringAndSize(received, count);
    if (data == NULL)
        return fatal(transport, read_failed);
    PyObject *protocol = Py_NewRef(stream->protocol); /* it may be replaced meanwhile */
    PyObject *result = PyObject_CallMethodOneArg(protocol, data_received_name, data);
    Py_DECREF(protocol);
    Py_DECREF(data);
    return result == NULL ? fatal(transport, receive_failed) : result;
}

/* ---------------------------------------------------------------- writing
 *
 * What a step writes is queued in its transport, and sent by one call: when the batch has ended, or the step
 * (loop_flush_late), before the step is without the loop, before the loop polls, and before anything but write() is done
 * with the transport.  What is written outside of a step is sent at once, as asyncio does.
 */

/* Whether so much may be queued.  write() pauses the protocol where the socket does not take it: that may not wait. */
static bool may_wait(Stream *stream, size_t size)
{
    if (size > MOST_QUEUED || stream->high_water == NULL || !PyLong_CheckExact(stream->high_water))
        return false;
    int overflow;
    long long high = PyLong_AsLongLongAndOverflow(stream->high_water, &overflow);
    return overflow > 0 || (high >= 0 && size <= (unsigned long long)high);
}

/* Whether data can be queued: it is plain, nothing waits for the socket, and the transport is as good as new. */
static bool can_queue(Stream *stream, PyObject *data)
{
    return PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) > 0 && !stream->eof && !stream->closing &&
           !stream->connection_lost && (stream->queued == NULL || PyList_CheckExact(stream->queued)) &&
           (stream->empty_waiter == NULL || stream->empty_waiter == Py_None) && stream->buffer != NULL &&
           PyObject_Size(stream->buffer) == 0;
}

/* Send of what is queued as much as the socket takes.  Returns whether nothing is left; -1 with an exception. */
static int send_queued(Stream *stream)
{
    PyObject *queued = stream->queued;
    Py_ssize_t first = 0, count = PyList_GET_SIZE(queued);
    size_t done = stream->sent; /* of the first one */
    int result = 1;
    while (first < count) {
        struct iovec parts[MOST_PARTS];
        size_t size = 0;
        int used = 0;
        while (used < MOST_PARTS && first + used < count && size < SEND_SIZE) {
            PyObject *data = PyList_GET_ITEM(queued, first + used);
            size_t skipped = used == 0 ? done : 0;
            parts[used].iov_base = PyBytes_AS_STRING(data) + skipped;
            parts[used].iov_len = (size_t)PyBytes_GET_SIZE(data) - skipped;
            size += parts[used++].iov_len;
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)used};
        ssize_t sent = used == 1 ? send(stream->fd, parts->iov_base, parts->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
                                 : sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            result = 0;
            if (!is_try_again(errno)) {
                PyErr_SetFromErrno(PyExc_OSError);
                result = -1;
            }
            break;
        }
        for (done += (size_t)sent; first < count; first++) {
            size_t length = (size_t)PyBytes_GET_SIZE(PyList_GET_ITEM(queued, first));
            if (done < length)
                break;
            done -= length;
        }
    }
    stream->sent = done;
    if (PyList_SetSlice(queued, 0, first, NULL) < 0)
        return -1;
    return result;
}

static bool has_queued(Stream *stream)
{
    return stream->queued != NULL && PyList_CheckExact(stream->queued) && PyList_GET_SIZE(stream->queued) > 0;
}

static bool has_socket(Stream *stream)
{
    return !stream->connection_lost && stream->loop != NULL && stream->loop != Py_None;
}

void stream_forget(PyObject *transport)
{
    Stream *stream = stream_of(transport);
    Py_CLEAR(stream->queued);
    stream->sent = 0;
}

/* As write() would have done at once: what is left waits for the socket, an error is the transport's. */
int stream_flush(PyObject *transport)
{
    Stream *stream = stream_of(transport);
    if (!has_queued(stream))
        return 0;
    if (!has_socket(stream)) {
        stream_forget(transport);
        return 0;
    }
    PyObject *result = NULL;
    int all = send_queued(stream);
    if (all > 0)
        return 0;
    PyObject *rest = stream->queued, *sent = PyLong_FromSize_t(stream->sent);
    stream->queued = NULL;
    stream->sent = 0;
    if (all < 0)
        result = fatal(transport, write_failed);
    else if (sent != NULL)
        result = PyObject_CallMethodObjArgs(transport, left_over_name, rest, sent, NULL);
    Py_XDECREF(sent);
    Py_DECREF(rest);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* For a thread that is not the holder's, in the middle of a step: what cannot be done now the next holder does. */
void stream_flush_quietly(PyObject *transport)
{
    Stream *stream = stream_of(transport);
    if (has_queued(stream) && has_socket(stream) && send_queued(stream) < 0)
        PyErr_Clear(); /* it comes up again */
}

static PyObject *stream_write(PyObject *transport, PyObject *data)
{
    Stream *stream = stream_of(transport);
    if (!can_queue(stream, data)) {
        if (PyErr_Occurred() != NULL || stream_flush(transport) < 0)
            return NULL;
        return call_super(stream_type, transport, write_name, &data, 1, NULL);
    }
    if (stream->queued == NULL && (stream->queued = PyList_New(0)) == NULL)
        return NULL;
    bool is_first = PyList_GET_SIZE(stream->queued) == 0;
    if (PyList_Append(stream->queued, data) < 0)
        return NULL;
    if (is_first)
        stream->size = 0;
    stream->size += (size_t)PyBytes_GET_SIZE(data);
    int waits = 0;
    if (may_wait(stream, stream->size))
        waits = loop_queue(stream->loop, is_first ? transport : NULL, stream->size > MOST_LATE);
    if (waits < 0 || (!waits && stream_flush(transport) < 0))
        return NULL;
    Py_RETURN_NONE;
}

/* The connection ends with an error: what the socket still takes is sent, and the rest is dropped. */
static PyObject *send_last(PyObject *transport, PyObject *Py_UNUSED(none))
{
    stream_flush_quietly(transport);
    stream_forget(transport);
    Py_RETURN_NONE;
}

static PyObject *flush(PyObject *transport, PyObject *Py_UNUSED(none))
{
    if (stream_flush(transport) < 0)
        return NULL;
    Py_RETURN_NONE;
}

#define MEMBER(name, type, field) {name, type, (Py_ssize_t)offsetof(Stream, field), Py_RELATIVE_OFFSET, NULL}
static PyMemberDef members[] = {
    MEMBER("_loop", Py_T_OBJECT_EX, loop),
    MEMBER("_queued", Py_T_OBJECT_EX, queued),
    MEMBER("_protocol", Py_T_OBJECT_EX, protocol),
    MEMBER("_buffer", Py_T_OBJECT_EX, buffer),
    MEMBER("_high_water", Py_T_OBJECT_EX, high_water),
    MEMBER("_empty_waiter", Py_T_OBJECT_EX, empty_waiter),
    MEMBER("_sock_fd", Py_T_INT, fd),
    MEMBER("_conn_lost", Py_T_INT, connection_lost),
    MEMBER("_is_buffered", Py_T_BOOL, is_buffered),
    MEMBER("_eof", Py_T_BOOL, eof),
    MEMBER("_closing", Py_T_BOOL, closing),
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef methods[] = {
    {"_read_ready", read_ready, METH_NOARGS, "The socket is readable."},
    {"_flush", flush, METH_NOARGS, "Send what is queued."},
    {"_send_last", send_last, METH_NOARGS, "Send of what is queued what the socket takes."},
    {"write", stream_write, METH_O, "Write data, without waiting for it to be sent."},
    {NULL, NULL, 0, NULL},
};

/* No dealloc and no traverse: the members are slots to those of a Python class, which are inherited. */
static PyType_Slot slots[] = {
    {Py_tp_doc, "The hot half of a stream transport."},
    {Py_tp_members, members},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hybridexec._core.compiled.StreamFields",
    .basicsize = -(int)sizeof(Stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int stream_exec(PyObject *module)
{
    static const Name names[] = {
        {&read_ready_name, "_read_ready"},
        {&on_eof_name, "_read_ready__on_eof"},
        {&data_received_name, "data_received"},
        {&write_name, "write"},
        {&left_over_name, "_left_over"},
        {&fatal_error_name, "_fatal_error"},
        {&read_failed, "Fatal read error on socket transport"},
        {&receive_failed, "Fatal error: protocol.data_received() call failed."},
        {&write_failed, "Fatal write error on socket transport"},
        {&get_buffer_name, "get_buffer"},
        {&buffer_updated_name, "buffer_updated"},
        {&get_buffer_failed, "Fatal error: protocol.get_buffer() call failed."},
        {&buffer_updated_failed, "Fatal error: protocol.buffer_updated() call failed."},
        {NULL, NULL},
    };
    if (intern(names) < 0 || (any_size = PyLong_FromLong(-1)) == NULL)
        return -1;
    PyObject *events = PyImport_ImportModule("asyncio.selector_events");
    PyObject *base = events == NULL ? NULL : PyObject_GetAttrString(events, "_SelectorSocketTransport");
    Py_XDECREF(events);
    if (base == NULL)
        return -1;
    stream_type = add_type(module, &spec, base);
    Py_DECREF(base);
    if (stream_type == NULL)
        return -1;
    offset = stream_type->tp_basicsize - PyType_GetTypeDataSize(stream_type);
    return 0;
}
