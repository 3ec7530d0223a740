/* The end of a step that has been without the loop, in the plain case: its LWP holds the loop once more, and has nothing
 * else to see to.
 *
 * The text is Turns.after_step (loop/turns.py); what is not plain is left to it, before anything has changed.
 */
#include "core.h"

static PyObject *watch_call_name, *trap_name, *luggage_name, *check_bindings_name, *wardrobe_name, *worn_name;
static PyObject *values_name, *tracers_name, *active_name, *bound_name, *nested_name;

/* Whether a call has ended for the detector. */
static int is_unwatched(LwpFields *lwp)
{
    int is = is_attribute(lwp->watch, trap_name, Py_None);
    return is > 0 ? is_attribute(lwp->watch, watch_call_name, Py_None) : is;
}

/* Whether the LWP has bound nobody to itself, and sees the thread-locals of the loop's home. */
static int is_dressed(LwpFields *lwp, RecordFields *record, PyObject *following)
{
    PyObject *luggage = PyObject_GetAttr((PyObject *)lwp, luggage_name), *wardrobe = NULL, *values = NULL;
    int is = luggage == NULL ? -1 : is_false_attribute(luggage, check_bindings_name);
    if (is > 0 && record->home != (PyObject *)lwp) {
        is = -1;
        if ((wardrobe = PyObject_GetAttr(luggage, wardrobe_name)) != NULL &&
            (values = PyObject_GetAttr(following, values_name)) != NULL)
            is = is_attribute(wardrobe, worn_name, values);
    }
    Py_XDECREF(values);
    Py_XDECREF(wardrobe);
    Py_XDECREF(luggage);
    return is;
}

/* Whether the steps that come need not be looked at before they are run. */
static int is_free(PyObject *following, PyObject *affinity)
{
    int is = is_false_attribute(affinity, bound_name);
    if (is > 0)
        is = is_false_attribute(affinity, nested_name);
    PyObject *tracers = is > 0 ? PyObject_GetAttr(following, tracers_name) : NULL;
    if (is > 0)
        is = tracers == NULL ? -1 : is_false_attribute(tracers, active_name);
    Py_XDECREF(tracers);
    return is;
}

int after_step(LwpFields *lwp, RecordFields *record, PyObject *following, PyObject *affinity, PyObject *ended)
{
    if (!lwp->lost_loop || record->holder != (PyObject *)lwp || lwp->region != Py_None || lwp->watch == NULL ||
        lwp->handle == NULL || fd_fields_of(lwp->handle) != NULL)
        return 0;
    int is = is_unwatched(lwp);
    if (is > 0)
        is = is_dressed(lwp, record, following);
    if (is > 0)
        is = is_free(following, affinity);
    if (is > 0) {
        lwp->slow_exit = lwp->lost_loop = false;
        Py_SETREF(lwp->handle, Py_NewRef(ended)); /* its finalizers may block */
    }
    return is;
}

int after_step_exec(PyObject *Py_UNUSED(module))
{
    static const Name names[] = {
        {&watch_call_name, "call"},
        {&trap_name, "trap"},
        {&luggage_name, "luggage"},
        {&check_bindings_name, "check_bindings"},
        {&wardrobe_name, "wardrobe"},
        {&worn_name, "worn"},
        {&values_name, "values"},
        {&tracers_name, "tracers"},
        {&active_name, "active"},
        {&bound_name, "bound"},
        {&nested_name, "nested"},
        {NULL, NULL},
    };
    return intern(names);
}
