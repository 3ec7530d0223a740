/* Handles: what call_soon, call_at and add_reader make.  (engines/handles.py)
 *
 * They are asyncio's Handle to whoever asks, and what asyncio's methods of it do (its repr, cancel, _run) they do by
 * names, so that it works on ours.  To be derived from a Python class costs its empty slots; not to be would cost the
 * programs that look for asyncio.Handle.
 */
#include "core.h"

PyTypeObject *step_type, *fd_fields_type, *timer_type;
Py_ssize_t handle_offset, timer_offset;

/* ---------------------------------------------------------------- making one */

/* The memory of steps that have ended, for the next ones: each step of a program makes one. */
enum { MOST_SPARE = 64 };
static PyObject *spare_steps[MOST_SPARE];
static int spare_count;

/* A new handle, whose fields are zero. */
static PyObject *allocated(PyTypeObject *type)
{
    if (type != step_type || spare_count == 0)
        return type->tp_alloc(type, 0);
    PyObject *self = PyObject_Init(spare_steps[--spare_count], type);
    PyObject_GC_Track(self);
    return self;
}

/* Drop the memory of a handle whose fields are zero, and which is not tracked any more. */
static void dropped(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (type == step_type && spare_count < MOST_SPARE)
        spare_steps[spare_count++] = self;
    else
        type->tp_free(self);
    Py_DECREF(type);
}

/* Fill a new handle.  On failure it is left as it was. */
static int fill(Handle *handle, PyObject *callback, PyObject *args, PyObject *loop, PyObject *context)
{
    if (context == NULL || context == Py_None) {
        if ((context = PyContext_CopyCurrent()) == NULL)
            return -1;
    } else
        Py_INCREF(context);
    handle->context = context;
    handle->callback = Py_NewRef(callback);
    handle->args = Py_NewRef(args);
    handle->loop = Py_NewRef(loop);
    handle->source_traceback = Py_NewRef(Py_None);
    handle->repr = Py_NewRef(Py_None);
    return 0;
}

static PyObject *tuple_of(PyObject *const *items, Py_ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(items[i]));
    return tuple;
}

static PyObject *made(PyTypeObject *type, Py_ssize_t offset, PyObject *callback, PyObject *args, PyObject *loop,
                      PyObject *context)
{
    PyObject *self = allocated(type);
    if (self != NULL && fill(fields_at(self, offset), callback, args, loop, context) < 0)
        Py_CLEAR(self);
    return self;
}

PyObject *step_new(PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *loop, PyObject *context)
{
    PyObject *tuple = tuple_of(args, count);
    if (tuple == NULL)
        return NULL;
    PyObject *self = made(step_type, handle_offset, callback, tuple, loop, context);
    Py_DECREF(tuple);
    return self;
}

PyObject *timer_new(double when, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *loop,
                    PyObject *context)
{
    PyObject *tuple = tuple_of(args, count);
    if (tuple == NULL)
        return NULL;
    PyObject *self = made(timer_type, timer_offset, callback, tuple, loop, context);
    Py_DECREF(tuple);
    if (self != NULL) {
        timer_of(self)->when = when;
        timer_of(self)->is_int = false;
    }
    return self;
}

/* Step(callback, args, loop, context) */
static PyObject *step_make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *callback, *arguments, *loop, *context;
    static char *names[] = {"callback", "args", "loop", "context", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!OO:Step", names, &callback, &PyTuple_Type, &arguments, &loop,
                                     &context))
        return NULL;
    return made(type, handle_offset, callback, arguments, loop, context);
}

/* Timer(when, callback, args, loop, context) */
static PyObject *timer_make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *when, *callback, *arguments, *loop, *context;
    static char *names[] = {"when", "callback", "args", "loop", "context", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO!OO:Timer", names, &when, &callback, &PyTuple_Type, &arguments,
                                     &loop, &context))
        return NULL;
    double seconds = PyFloat_AsDouble(when);
    if (seconds == -1.0 && PyErr_Occurred() != NULL)
        return NULL;
    PyObject *self = made(type, timer_offset, callback, arguments, loop, context);
    if (self != NULL) {
        timer_of(self)->when = seconds;
        timer_of(self)->is_int = PyLong_CheckExact(when);
    }
    return self;
}

/* What Step's and Timer's base would ask the loop for has been done. */
static int do_nothing(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return 0;
}

/* FdFields are filled by asyncio's Handle.__init__, through the members. */
static PyObject *fd_fields_make(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        FdFields *fields = fields_at(self, handle_offset);
        fields->handle.source_traceback = Py_NewRef(Py_None);
        fields->handle.repr = Py_NewRef(Py_None);
    }
    return self;
}

/* ---------------------------------------------------------------- the end of one */

static int traverse_fields(Handle *handle, visitproc visit, void *arg)
{
    Py_VISIT(handle->callback);
    Py_VISIT(handle->args);
    Py_VISIT(handle->context);
    Py_VISIT(handle->loop);
    Py_VISIT(handle->source_traceback);
    return 0;
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return traverse_fields(handle_of(self), visit, arg);
}

static int fd_fields_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(fd_fields_of(self)->state);
    return handle_traverse(self, visit, arg);
}

static int handle_clear(PyObject *self)
{
    Handle *handle = handle_of(self);
    Py_CLEAR(handle->callback);
    Py_CLEAR(handle->args);
    Py_CLEAR(handle->context);
    Py_CLEAR(handle->loop);
    Py_CLEAR(handle->source_traceback);
    Py_CLEAR(handle->repr);
    return 0;
}

static int fd_fields_clear(PyObject *self)
{
    Py_CLEAR(fd_fields_of(self)->state);
    return handle_clear(self);
}

static void handle_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    FdFields *fields = fd_fields_of(self);
    if (fields != NULL)
        Py_CLEAR(fields->state);
    handle_clear(self);
    handle_of(self)->cancelled = false;
    dropped(self);
}

/* ---------------------------------------------------------------- timers */

/* As TimerHandle.cancel. */
static PyObject *timer_cancel(PyObject *self, PyObject *Py_UNUSED(none))
{
    Timer *timer = timer_of(self);
    if (timer->handle.cancelled)
        Py_RETURN_NONE;
    timer->handle.cancelled = true;
    if (timer->timers != NULL)
        timers_remove(self);
    if (timer->handle.source_traceback != Py_None) { /* in debug mode its repr tells what it was */
        PyObject *repr = PyObject_Repr(self);
        if (repr == NULL)
            return NULL;
        Py_XSETREF(timer->handle.repr, repr);
    }
    PyObject *callback = timer->handle.callback, *args = timer->handle.args;
    timer->handle.callback = Py_NewRef(Py_None);
    timer->handle.args = Py_NewRef(Py_None);
    Py_XDECREF(callback);
    Py_XDECREF(args);
    Py_RETURN_NONE;
}

static PyObject *timer_when(PyObject *self, PyObject *Py_UNUSED(none))
{
    Timer *timer = timer_of(self);
    return timer->is_int ? PyLong_FromDouble(timer->when) : PyFloat_FromDouble(timer->when);
}

static PyObject *timer_when_field(PyObject *self, void *Py_UNUSED(closure))
{
    return timer_when(self, NULL);
}

static PyObject *timer_is_scheduled(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(timer_of(self)->timers != NULL);
}

/* ---------------------------------------------------------------- the types */

#define MEMBER(name, type, field, of) {name, type, (Py_ssize_t)offsetof(of, field), Py_RELATIVE_OFFSET, NULL}
#define OF_HANDLE                                                  \
    MEMBER("_callback", Py_T_OBJECT_EX, callback, Handle),         \
    MEMBER("_args", Py_T_OBJECT_EX, args, Handle),                 \
    MEMBER("_context", Py_T_OBJECT_EX, context, Handle),           \
    MEMBER("_loop", Py_T_OBJECT_EX, loop, Handle),                 \
    MEMBER("_source_traceback", Py_T_OBJECT_EX, source_traceback, Handle), \
    MEMBER("_repr", Py_T_OBJECT_EX, repr, Handle),                 \
    MEMBER("_cancelled", Py_T_BOOL, cancelled, Handle)
#define LAST_MEMBER {NULL, 0, 0, 0, NULL}

static PyMemberDef step_members[] = {OF_HANDLE, LAST_MEMBER};
static PyMemberDef fd_members[] = {OF_HANDLE, MEMBER("state", Py_T_OBJECT_EX, state, FdFields), LAST_MEMBER};
static PyMemberDef timer_members[] = {OF_HANDLE, LAST_MEMBER};

static PyMethodDef timer_methods[] = {
    {"cancel", timer_cancel, METH_NOARGS, "As TimerHandle.cancel."},
    {"when", timer_when, METH_NOARGS, "As TimerHandle.when."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef timer_getset[] = {
    {"_when", timer_when_field, NULL, "When it is due, in the loop's time.", NULL},
    {"_scheduled", timer_is_scheduled, NULL, "Whether it is in a heap.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot step_slots[] = {
    {Py_tp_doc, "What call_soon makes, outside of debug mode."},
    {Py_tp_new, step_make},
    {Py_tp_init, do_nothing},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_members, step_members},
    {0, NULL},
};

static PyType_Slot fd_slots[] = {
    {Py_tp_doc, "The fields of a callback of add_reader or add_writer."},
    {Py_tp_new, fd_fields_make},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, fd_fields_traverse},
    {Py_tp_clear, fd_fields_clear},
    {Py_tp_members, fd_members},
    {0, NULL},
};

static PyType_Slot timer_slots[] = {
    {Py_tp_doc, "What call_later and call_at make."},
    {Py_tp_new, timer_make},
    {Py_tp_init, do_nothing},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_members, timer_members},
    {Py_tp_methods, timer_methods},
    {Py_tp_getset, timer_getset},
    {0, NULL},
};

enum { FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC };

static PyType_Spec step_spec = {
    .name = "hybridexec._core.compiled.Handle", /* as asyncio calls it in messages */
    .basicsize = -(int)sizeof(Handle),
    .flags = FLAGS,
    .slots = step_slots,
};

static PyType_Spec fd_spec = {
    .name = "hybridexec._core.compiled.FdFields",
    .basicsize = -(int)sizeof(FdFields),
    .flags = FLAGS | Py_TPFLAGS_BASETYPE,
    .slots = fd_slots,
};

static PyType_Spec timer_spec = {
    .name = "hybridexec._core.compiled.TimerHandle",
    .basicsize = -(int)sizeof(Timer),
    .flags = FLAGS,
    .slots = timer_slots,
};

static Py_ssize_t offset_in(PyTypeObject *type)
{
    return type->tp_basicsize - PyType_GetTypeDataSize(type);
}

int handle_exec(PyObject *module)
{
    PyObject *events = PyImport_ImportModule("asyncio.events");
    if (events == NULL)
        return -1;
    PyObject *base = PyObject_GetAttrString(events, "Handle");
    PyObject *timer_base = PyObject_GetAttrString(events, "TimerHandle");
    Py_DECREF(events);
    if (base != NULL && timer_base != NULL) {
        step_type = add_type(module, &step_spec, base);
        fd_fields_type = add_type(module, &fd_spec, base);
        timer_type = add_type(module, &timer_spec, timer_base);
    }
    Py_XDECREF(base);
    Py_XDECREF(timer_base);
    if (step_type == NULL || fd_fields_type == NULL || timer_type == NULL)
        return -1;
    handle_offset = offset_in(step_type);
    timer_offset = offset_in(timer_type);
    return 0;
}
