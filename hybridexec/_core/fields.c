/* Slots of the protocol's objects that compiled code looks at.  Python code reads and writes them as it does any. */
#include "core.h"

#include <math.h>

PyTypeObject *lwp_fields_type, *record_fields_type;

/* ---------------------------------------------------------------- what both have in common
 *
 * Their references are those of their members: each is named once, in its table.
 */

static PyObject **reference(PyObject *self, const PyMemberDef *member)
{
    return (PyObject **)((char *)self + member->offset);
}

static int traverse_members(PyObject *self, const PyMemberDef *member, visitproc visit, void *arg)
{
    for (; member->name != NULL; member++)
        if (member->type == Py_T_OBJECT_EX)
            Py_VISIT(*reference(self, member));
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear_members(PyObject *self, const PyMemberDef *member)
{
    for (; member->name != NULL; member++)
        if (member->type == Py_T_OBJECT_EX)
            Py_CLEAR(*reference(self, member));
    return 0;
}

static void dealloc(PyObject *self, const PyMemberDef *members)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear_members(self, members);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---------------------------------------------------------------- LWP */

static PyMemberDef lwp_members[] = {
    {"handle", Py_T_OBJECT_EX, offsetof(LwpFields, handle), 0, NULL},
    {"interrupt", Py_T_OBJECT_EX, offsetof(LwpFields, interrupt), 0, NULL},
    {"bound_steps", Py_T_OBJECT_EX, offsetof(LwpFields, bound_steps), 0, NULL},
    {"carrying", Py_T_OBJECT_EX, offsetof(LwpFields, carrying), 0, NULL},
    {"region", Py_T_OBJECT_EX, offsetof(LwpFields, region), 0, NULL},
    {"state", Py_T_OBJECT_EX, offsetof(LwpFields, state), 0, NULL},
    {"watch", Py_T_OBJECT_EX, offsetof(LwpFields, watch), 0, NULL},
    {"since", Py_T_DOUBLE, offsetof(LwpFields, since), 0, NULL},
    {"deadline", Py_T_DOUBLE, offsetof(LwpFields, deadline), 0, NULL},
    {"callbacks", Py_T_INT, offsetof(LwpFields, callbacks), 0, NULL},
    {"lost_loop", Py_T_BOOL, offsetof(LwpFields, lost_loop), 0, NULL},
    {"ident", Py_T_ULONG, offsetof(LwpFields, ident), 0, NULL},
    {"slow_exit", Py_T_BOOL, offsetof(LwpFields, slow_exit), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int lwp_traverse(PyObject *self, visitproc visit, void *arg)
{
    return traverse_members(self, lwp_members, visit, arg);
}

static int lwp_clear(PyObject *self)
{
    return clear_members(self, lwp_members);
}

static void lwp_dealloc(PyObject *self)
{
    dealloc(self, lwp_members);
}

static PyType_Slot lwp_slots[] = {
    {Py_tp_doc, "Slots of an LWP."},
    {Py_tp_dealloc, lwp_dealloc},
    {Py_tp_traverse, lwp_traverse},
    {Py_tp_clear, lwp_clear},
    {Py_tp_members, lwp_members},
    {0, NULL},
};

static PyType_Spec lwp_spec = {
    .name = "hybridexec._core.compiled.LwpFields",
    .basicsize = sizeof(LwpFields),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = lwp_slots,
};

/* ---------------------------------------------------------------- Record */

static PyObject *record_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    RecordFields *record = (RecordFields *)type->tp_alloc(type, 0);
    if (record != NULL)
        record->due = INFINITY;
    return (PyObject *)record;
}

static PyObject *get_due(RecordFields *record, void *Py_UNUSED(closure))
{
    if (record->due == INFINITY)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(record->due);
}

static int set_due(RecordFields *record, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == Py_None) {
        record->due = INFINITY;
        return 0;
    }
    double due = value == NULL ? 0.0 : PyFloat_AsDouble(value);
    if (value == NULL)
        PyErr_SetString(PyExc_AttributeError, "due cannot be deleted");
    if (PyErr_Occurred() != NULL)
        return -1;
    record->due = due;
    return 0;
}

static PyObject *get_holder_ident(RecordFields *record, void *Py_UNUSED(closure))
{
    if (!record->is_running)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(record->holder_ident);
}

static int set_holder_ident(RecordFields *record, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == Py_None) {
        record->is_running = false;
        return 0;
    }
    unsigned long ident = value == NULL ? 0 : PyLong_AsUnsignedLong(value);
    if (value == NULL)
        PyErr_SetString(PyExc_AttributeError, "holder_ident cannot be deleted");
    if (PyErr_Occurred() != NULL)
        return -1;
    record->holder_ident = ident;
    record->is_running = true;
    return 0;
}

static PyMemberDef record_members[] = {
    {"batch", Py_T_OBJECT_EX, offsetof(RecordFields, batch), 0, NULL},
    {"deferred", Py_T_OBJECT_EX, offsetof(RecordFields, deferred), 0, NULL},
    {"detached", Py_T_OBJECT_EX, offsetof(RecordFields, detached), 0, NULL},
    {"holder", Py_T_OBJECT_EX, offsetof(RecordFields, holder), 0, NULL},
    {"home", Py_T_OBJECT_EX, offsetof(RecordFields, home), 0, NULL},
    {"last", Py_T_OBJECT_EX, offsetof(RecordFields, last), 0, NULL},
    {"lwps", Py_T_OBJECT_EX, offsetof(RecordFields, lwps), 0, NULL},
    {"mutex", Py_T_OBJECT_EX, offsetof(RecordFields, mutex), 0, NULL},
    {"parked", Py_T_OBJECT_EX, offsetof(RecordFields, parked), 0, NULL},
    {"pollers", Py_T_OBJECT_EX, offsetof(RecordFields, pollers), 0, NULL},
    {"preempted", Py_T_OBJECT_EX, offsetof(RecordFields, preempted), 0, NULL},
    {"ready", Py_T_OBJECT_EX, offsetof(RecordFields, ready), 0, NULL},
    {"returning", Py_T_OBJECT_EX, offsetof(RecordFields, returning), 0, NULL},
    {"state", Py_T_OBJECT_EX, offsetof(RecordFields, state), 0, NULL},
    {"summoned", Py_T_OBJECT_EX, offsetof(RecordFields, summoned), 0, NULL},
    {"timers", Py_T_OBJECT_EX, offsetof(RecordFields, timers), 0, NULL},
    {"unheld", Py_T_OBJECT_EX, offsetof(RecordFields, unheld), 0, NULL},
    {"waking", Py_T_OBJECT_EX, offsetof(RecordFields, waking), 0, NULL},
    {"away_since", Py_T_DOUBLE, offsetof(RecordFields, away_since), 0, NULL},
    {"claims", Py_T_LONGLONG, offsetof(RecordFields, claims), 0, NULL},
    {"handoffs", Py_T_LONGLONG, offsetof(RecordFields, handoffs), 0, NULL},
    {"wakeups", Py_T_LONGLONG, offsetof(RecordFields, wakeups), 0, NULL},
    {"batch_unfinished", Py_T_BOOL, offsetof(RecordFields, batch_unfinished), 0, NULL},
    {"exhausted", Py_T_BOOL, offsetof(RecordFields, exhausted), 0, NULL},
    {"stopping", Py_T_BOOL, offsetof(RecordFields, stopping), 0, NULL},
    {"mailed", Py_T_BOOL, offsetof(RecordFields, mailed), 0, NULL},
    {"stale", Py_T_BOOL, offsetof(RecordFields, stale), 0, NULL},
    {"unseen", Py_T_BOOL, offsetof(RecordFields, unseen), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int record_traverse(PyObject *self, visitproc visit, void *arg)
{
    return traverse_members(self, record_members, visit, arg);
}

static int record_clear(PyObject *self)
{
    return clear_members(self, record_members);
}

static void record_dealloc(PyObject *self)
{
    dealloc(self, record_members);
}

static PyGetSetDef record_getset[] = {
    {"due", (getter)get_due, (setter)set_due, "When the holder has to look up between two steps; None: never.", NULL},
    {"holder_ident", (getter)get_holder_ident, (setter)set_holder_ident,
     "The holder's thread; 0 while an LWP polls or is on its way; None: stopped.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot record_slots[] = {
    {Py_tp_doc, "Fields of a record."},
    {Py_tp_new, record_new},
    {Py_tp_dealloc, record_dealloc},
    {Py_tp_traverse, record_traverse},
    {Py_tp_clear, record_clear},
    {Py_tp_members, record_members},
    {Py_tp_getset, record_getset},
    {0, NULL},
};

static PyType_Spec record_spec = {
    .name = "hybridexec._core.compiled.RecordFields",
    .basicsize = sizeof(RecordFields),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = record_slots,
};

int fields_exec(PyObject *module)
{
    lwp_fields_type = add_type(module, &lwp_spec, NULL);
    record_fields_type = add_type(module, &record_spec, NULL);
    return lwp_fields_type == NULL || record_fields_type == NULL ? -1 : 0;
}
