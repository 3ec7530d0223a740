/* Fields of objects of Python classes that compiled code looks at.  Python code reads and writes them as it does any. */
#include "core.h"

#include <math.h>

/* ---------------------------------------------------------------- what they have in common
 *
 * Their references are those of their members: each is named once, in its table.
 */

static void dealloc(PyObject *self);

static const PyMemberDef *members_of(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self); /* or one that is derived from ours, in Python */
    while (type->tp_dealloc != dealloc)
        type = type->tp_base;
    return type->tp_members;
}

static PyObject **reference(PyObject *self, const PyMemberDef *member)
{
    return (PyObject **)((char *)self + member->offset);
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    for (const PyMemberDef *member = members_of(self); member->name != NULL; member++)
        if (member->type == Py_T_OBJECT_EX)
            Py_VISIT(*reference(self, member));
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear(PyObject *self)
{
    for (const PyMemberDef *member = members_of(self); member->name != NULL; member++)
        if (member->type == Py_T_OBJECT_EX)
            Py_CLEAR(*reference(self, member));
    return 0;
}

static void dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
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
    {"luggage", Py_T_OBJECT_EX, offsetof(LwpFields, luggage), 0, NULL},
    {"since", Py_T_DOUBLE, offsetof(LwpFields, since), 0, NULL},
    {"deadline", Py_T_DOUBLE, offsetof(LwpFields, deadline), 0, NULL},
    {"callbacks", Py_T_INT, offsetof(LwpFields, callbacks), 0, NULL},
    {"lost_loop", Py_T_BOOL, offsetof(LwpFields, lost_loop), 0, NULL},
    {"ident", Py_T_ULONG, offsetof(LwpFields, ident), 0, NULL},
    {"slow_exit", Py_T_BOOL, offsetof(LwpFields, slow_exit), 0, NULL},
    {NULL, 0, 0, 0, NULL},
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
    {"host", Py_T_OBJECT_EX, offsetof(RecordFields, host), 0, NULL},
    {"last", Py_T_OBJECT_EX, offsetof(RecordFields, last), 0, NULL},
    {"lwps", Py_T_OBJECT_EX, offsetof(RecordFields, lwps), 0, NULL},
    {"moves", Py_T_OBJECT_EX, offsetof(RecordFields, moves), 0, NULL},
    {"mutex", Py_T_OBJECT_EX, offsetof(RecordFields, mutex), 0, NULL},
    {"parked", Py_T_OBJECT_EX, offsetof(RecordFields, parked), 0, NULL},
    {"pollers", Py_T_OBJECT_EX, offsetof(RecordFields, pollers), 0, NULL},
    {"pool", Py_T_OBJECT_EX, offsetof(RecordFields, pool), 0, NULL},
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
    {"leaves_plainly", Py_T_BOOL, offsetof(RecordFields, leaves_plainly), 0, NULL},
    {"exhausted", Py_T_BOOL, offsetof(RecordFields, exhausted), 0, NULL},
    {"stopping", Py_T_BOOL, offsetof(RecordFields, stopping), 0, NULL},
    {"mailed", Py_T_BOOL, offsetof(RecordFields, mailed), 0, NULL},
    {"stale", Py_T_BOOL, offsetof(RecordFields, stale), 0, NULL},
    {"unseen", Py_T_BOOL, offsetof(RecordFields, unseen), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef record_getset[] = {
    {"due", (getter)get_due, (setter)set_due, "When the holder has to look up between two steps; None: never.", NULL},
    {"holder_ident", (getter)get_holder_ident, (setter)set_holder_ident,
     "The holder's thread; 0 while an LWP polls or is on its way; None: stopped.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---------------------------------------------------------------- what the detector keeps */

static PyMemberDef watch_members[] = {
    {"call", Py_T_OBJECT_EX, offsetof(WatchFields, call), 0, NULL},
    {"reactions", Py_T_OBJECT_EX, offsetof(WatchFields, reactions), 0, NULL},
    {"trap", Py_T_OBJECT_EX, offsetof(WatchFields, trap), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef call_members[] = {
    {"argument", Py_T_OBJECT_EX, offsetof(CallFields, argument), 0, NULL},
    {"code", Py_T_OBJECT_EX, offsetof(CallFields, code), 0, NULL},
    {"detection", Py_T_OBJECT_EX, offsetof(CallFields, detection), 0, NULL},
    {"name", Py_T_OBJECT_EX, offsetof(CallFields, name), 0, NULL},
    {"outer", Py_T_OBJECT_EX, offsetof(CallFields, outer), 0, NULL},
    {"site", Py_T_OBJECT_EX, offsetof(CallFields, site), 0, NULL},
    {"began", Py_T_DOUBLE, offsetof(CallFields, began), 0, NULL},
    {"is_plain", Py_T_BOOL, offsetof(CallFields, is_plain), 0, NULL},
    {"reported", Py_T_BOOL, offsetof(CallFields, reported), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* ---------------------------------------------------------------- what follows a loop */

static PyMemberDef luggage_members[] = {
    {"attributes", Py_T_OBJECT_EX, offsetof(LuggageFields, attributes), 0, NULL},
    {"task", Py_T_OBJECT_EX, offsetof(LuggageFields, task), 0, NULL},
    {"tracers", Py_T_OBJECT_EX, offsetof(LuggageFields, tracers), 0, NULL},
    {"wardrobe", Py_T_OBJECT_EX, offsetof(LuggageFields, wardrobe), 0, NULL},
    {"identity", Py_T_ULONG, offsetof(LuggageFields, identity), 0, NULL},
    {"pin_count", Py_T_INT, offsetof(LuggageFields, pin_count), 0, NULL},
    {"check_bindings", Py_T_BOOL, offsetof(LuggageFields, check_bindings), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef following_members[] = {
    {"_attributes", Py_T_OBJECT_EX, offsetof(FollowingFields, attributes), 0, NULL},
    {"_away", Py_T_OBJECT_EX, offsetof(FollowingFields, away), 0, NULL},
    {"_held", Py_T_OBJECT_EX, offsetof(FollowingFields, held), 0, NULL},
    {"_loop", Py_T_OBJECT_EX, offsetof(FollowingFields, loop), 0, NULL},
    {"_marks", Py_T_OBJECT_EX, offsetof(FollowingFields, marks), 0, NULL},
    {"look", Py_T_OBJECT_EX, offsetof(FollowingFields, look), 0, NULL},
    {"tracers", Py_T_OBJECT_EX, offsetof(FollowingFields, tracers), 0, NULL},
    {"values", Py_T_OBJECT_EX, offsetof(FollowingFields, values), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef marks_members[] = {
    {"kept", Py_T_OBJECT_EX, offsetof(MarksFields, kept), 0, NULL},
    {"leaver", Py_T_OBJECT_EX, offsetof(MarksFields, leaver), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef tracers_members[] = {
    {"_profiler", Py_T_OBJECT_EX, offsetof(TracersFields, profiler), 0, NULL},
    {"_tracer", Py_T_OBJECT_EX, offsetof(TracersFields, tracer), 0, NULL},
    {"_untold", Py_T_OBJECT_EX, offsetof(TracersFields, untold), 0, NULL},
    {"active", Py_T_BOOL, offsetof(TracersFields, active), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* ---------------------------------------------------------------- the types */

PyTypeObject *lwp_fields_type, *record_fields_type, *watch_fields_type, *call_fields_type, *luggage_fields_type;
PyTypeObject *following_fields_type, *marks_fields_type, *tracers_fields_type;

WatchFields *watch_of(LwpFields *lwp)
{
    WatchFields *watch = (WatchFields *)lwp->watch;
    if (watch == NULL || !PyObject_TypeCheck(lwp->watch, watch_fields_type))
        return NULL;
    return watch->call != NULL && watch->reactions != NULL && watch->trap != NULL ? watch : NULL;
}

LuggageFields *luggage_of(LwpFields *lwp)
{
    LuggageFields *luggage = (LuggageFields *)lwp->luggage;
    if (luggage == NULL || !PyObject_TypeCheck(lwp->luggage, luggage_fields_type))
        return NULL;
    return luggage->task != NULL && luggage->attributes != NULL && luggage->wardrobe != NULL ? luggage : NULL;
}

static PyTypeObject *add(PyObject *module, const char *name, size_t size, PyMemberDef *members, PyType_Slot *others)
{
    enum { OWN = 4, MOST = 8 };
    PyType_Slot slots[MOST] = {
        {Py_tp_dealloc, dealloc}, {Py_tp_traverse, traverse}, {Py_tp_clear, clear}, {Py_tp_members, members}};
    for (int i = OWN; others->slot != 0; i++, others++)
        slots[i] = *others;
    PyType_Spec spec = {
        .name = name,
        .basicsize = (int)size,
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return add_type(module, &spec, NULL);
}

int fields_exec(PyObject *module)
{
    PyType_Slot none[] = {{0, NULL}};
    PyType_Slot of_record[] = {{Py_tp_new, record_new}, {Py_tp_getset, record_getset}, {0, NULL}};
    const struct {
        PyTypeObject **type;
        const char *name;
        size_t size;
        PyMemberDef *members;
        PyType_Slot *others;
    } types[] = {
        {&lwp_fields_type, "hybridexec._core.compiled.LwpFields", sizeof(LwpFields), lwp_members, none},
        {&record_fields_type, "hybridexec._core.compiled.RecordFields", sizeof(RecordFields), record_members, of_record},
        {&watch_fields_type, "hybridexec._core.compiled.WatchFields", sizeof(WatchFields), watch_members, none},
        {&call_fields_type, "hybridexec._core.compiled.CallFields", sizeof(CallFields), call_members, none},
        {&luggage_fields_type, "hybridexec._core.compiled.LuggageFields", sizeof(LuggageFields), luggage_members, none},
        {&following_fields_type, "hybridexec._core.compiled.FollowingFields", sizeof(FollowingFields),
         following_members, none},
        {&marks_fields_type, "hybridexec._core.compiled.MarksFields", sizeof(MarksFields), marks_members, none},
        {&tracers_fields_type, "hybridexec._core.compiled.TracersFields", sizeof(TracersFields), tracers_members, none},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if ((*types[i].type = add(module, types[i].name, types[i].size, types[i].members, types[i].others)) == NULL)
            return -1;
    return 0;
}
